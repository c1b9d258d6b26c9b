"""The routes, one module a room; ``service.app`` puts them together."""
