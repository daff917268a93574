"""What holds for every test."""

from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair: speed is looked at in bench/.
settings.register_profile("untimed", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
