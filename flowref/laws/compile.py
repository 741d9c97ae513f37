"""The pass under torch.compile, torch.func and a second backward."""
