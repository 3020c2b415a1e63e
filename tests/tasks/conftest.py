"""What the tests of tasks are given: a demo corpus of fake packages."""

from tests.demo.fake_packages import packages as packages
