"""Records of completed jobs for experiment trackers. Reads nothing, and never fails a job."""
