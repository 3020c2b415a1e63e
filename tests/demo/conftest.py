"""What the tests of the demo corpus are given."""

from tests.demo.fake_packages import packages as packages
