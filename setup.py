"""Copies ``handlers/`` into a wheel, where ``latentpatch archive`` finds it; the rest is in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithHandlers(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = str(Path(self.build_lib, "latentpatch", "handlers"))
            self.mkpath(target)
            for file in sorted(path for path in Path("handlers").iterdir() if path.is_file()):
                self.copy_file(str(file), target)


setup(cmdclass={"build_py": BuildWithHandlers})
