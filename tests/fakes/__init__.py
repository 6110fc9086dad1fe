"""Small real things in place of large ones: a model, engines, and programs that run the job with them."""
