"""How a pass is executed; one way is chosen when the model starts."""
