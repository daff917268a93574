"""HTTP: health, metrics and the API. It looks at the node through `NodeState` and acts through the same doors."""
