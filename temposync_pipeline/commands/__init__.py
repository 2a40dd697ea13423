"""What `temposync` can do, a function a command: typer reads its options from the signature, its help from the docstring."""
