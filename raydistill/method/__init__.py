"""The method: who is confused with whom, specialists for these, equation 5, teachers, and the cache of soft targets."""
