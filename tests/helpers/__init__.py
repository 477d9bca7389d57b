"""Helpers of tests: drawn faces, live servers, a browser, slow reference searches."""
