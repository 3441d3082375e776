"""What somebody tries who has no session, or one of his own only: at the API, and at the SSH entry point."""
