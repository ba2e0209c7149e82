"""The paper's tables as runs that can be interrupted and resumed."""
