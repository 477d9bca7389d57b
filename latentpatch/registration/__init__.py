"""Registration of pictures: alignment and congealing."""
