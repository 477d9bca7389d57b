"""What tests share: drawn faces, live servers, a browser, slow reference searches."""
