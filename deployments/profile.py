"""A Prefect profile, so that `prefect` in any folder talks to the server of `up`, with its password."""

from pathlib import Path

from prefect.settings import Profile, get_current_settings, load_profiles, save_profiles

NAME = "extract-and-train"


def use_profile(settings: dict[str, str], before: Path) -> None:
    """Activate a profile with these settings. The file `before` records the profile that was active."""
    profiles = load_profiles()
    if profiles.active_name not in (NAME, None):
        before.write_text(profiles.active_name or "")
    if NAME in profiles.names:
        profiles.remove_profile(NAME)
    profiles.add_profile(Profile(name=NAME, settings=dict(settings)))
    profiles.set_active(NAME)
    path = get_current_settings().profiles_path
    assert path is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)  # it holds the password
    save_profiles(profiles)


def leave_profile(before: Path) -> None:
    """Remove the profile, and activate the earlier one again."""
    profiles = load_profiles()
    if NAME not in profiles.names:
        return
    profiles.remove_profile(NAME)
    earlier = before.read_text().strip() if before.exists() else ""
    if profiles.active_name in (NAME, None):
        profiles.set_active(earlier if earlier in profiles.names else None)
    save_profiles(profiles)
    before.unlink(missing_ok=True)
