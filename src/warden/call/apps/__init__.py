"""What a call may be doing besides joining two parties: each application is a small frozen value of its own."""
