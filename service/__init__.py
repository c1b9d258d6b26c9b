"""The server: online BNP models behind HTTP. It knows nothing of gradients."""
