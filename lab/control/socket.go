package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNotRunning says that no lab listens at the socket.
var ErrNotRunning = errors.New("the lab is not running")

// ErrRunning says that the lab's socket is taken.
var ErrRunning = errors.New("it is running already, or being started")

func address(key string) string { return fmt.Sprintf("@keylab/%d/%s", os.Geteuid(), key) }

// Reserve binds the control socket of the lab with that key (state.Dir.Key), in the caller's network namespace, as a
// file to hand to the lab's supervisor. Nobody can connect before Adopt. ErrRunning when the socket is taken: the lab
// runs, or somebody is starting it.
func Reserve(key string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make the lab's control socket: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: address(key)})
	if errors.Is(err, unix.EADDRINUSE) {
		err = ErrRunning
	} else if err != nil {
		err = fmt.Errorf("bind the lab's control socket: %w", err)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "control socket"), nil
}

// Adopt makes the supervisor the owner of the socket that Reserve made: peers see the supervisor's credentials from
// now on, and only peers of the supervisor's own user are served.
func Adopt(f *os.File) (net.Listener, error) {
	// listen(2) once more stores this process's credentials as those which SO_PEERCRED shows to a client.
	if err := unix.Listen(int(f.Fd()), unix.SOMAXCONN); err != nil {
		return nil, fmt.Errorf("listen on the lab's control socket: %w", err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on the lab's control socket: %w", err)
	}
	f.Close()
	return ownUserListener{l}, nil
}

type ownUserListener struct{ net.Listener }

func (l ownUserListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cred, err := peer(c)
		if err == nil && int(cred.Uid) == os.Geteuid() {
			return c, nil
		}
		c.Close()
	}
}

// dial connects to the lab's supervisor; pid is the supervisor's, in the caller's PID namespace.
func dial(ctx context.Context, key string) (c net.Conn, pid int, err error) {
	c, err = (&net.Dialer{}).DialContext(ctx, "unix", address(key))
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil, 0, ErrNotRunning
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reach the lab's control socket: %w", err)
	}
	cred, err := peer(c)
	if err == nil && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("the lab's control socket is held by user %d, not by you", cred.Uid)
	}
	if err != nil {
		c.Close()
		return nil, 0, err
	}
	return c, int(cred.Pid), nil
}

func peer(c net.Conn) (*unix.Ucred, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var sockErr error
	if err := raw.Control(func(fd uintptr) { cred, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	if sockErr != nil {
		return nil, fmt.Errorf("ask who is at the other end of the control socket: %w", sockErr)
	}
	return cred, nil
}
