"""The names busybox goes by in the tests' root filesystems."""

_NAMES = (
    "sh ls cat mount id ps true false touch rm rmdir mkdir env hostname grep sleep echo head mknod dd stat "
    "find readlink tty kill wc sed chmod chown ln pwd umount unshare uname printf test df mv tail sort "
    "stty cp"
)
APPLETS = tuple(_NAMES.split())
