"""Tests with a real vLLM in an interpreter of its own."""
