"""Server of online BNP models over HTTP."""
