"""Subtitles: SubRip (.srt) and WebVTT (.vtt). The texts of the cues are places; everything else is a gap."""
