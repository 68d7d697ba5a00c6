"""Where units are worked on: processes of this machine."""
