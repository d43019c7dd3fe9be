"""Agreement with programs and algorithms that are not ours."""
