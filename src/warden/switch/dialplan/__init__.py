"""The dialplan as values: what each item says, and whether all of them make sense together. No call is carried here."""
