"""Group communication on Sinfonia: to come; the README beside this package says what."""
