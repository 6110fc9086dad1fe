"""Long, seeded test runs that report figures; each has a make target, and the tests run a small part of each."""
