"""Check translations: reasons to distrust them, second tries, and the rows that are made of them."""
