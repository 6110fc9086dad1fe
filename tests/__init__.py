"""Tests of hymt_batch. Helpers that tests share are in fakes/; every module is imported as tests.NAME."""
