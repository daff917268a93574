"""Drills: each proves one promise of Warden on a real cluster, at the size that is promised. Generator (`town`,
`traffic`), nemesis and checker are apart, and what is not known for sure is never counted as kept.
"""
