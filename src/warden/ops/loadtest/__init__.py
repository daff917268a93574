"""The load test: many phones at any SIP server, from outside. `plan` says what shall be done, `accounts` who the phones
are, `run` has them do it, `tally` counts what became of it, and `report` judges.
"""
