"""How a model comes to its answers: what it sees, hears and says. No judge model is asked."""
