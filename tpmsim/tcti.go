package tpmsim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Limits of the client that all connections of one ServeTCTI share: what is over them and longest unused is flushed.
const (
	tctiMaxObjects  = 64
	tctiMaxSessions = 24
)

// ServeTCTI serves the TPM in the way of swtpm, for tpm2-tss and what is built on it (tpm2-tools, tss-esapi): raw commands
// on data, control messages on ctrl. With the two on ports P and P+1 of 127.0.0.1 the TCTI is "swtpm:host=127.0.0.1,port=P".
// It returns nil when ctx ends, after closing the listeners and all connections, or the error of a listener that fails.
//
// tpm2-tss makes a new data connection for every command, so that connections cannot be told apart by client: all those of
// one ServeTCTI are one client of the TPM (see [TPM.Client]), with handles shared by its programs as on a TPM without a
// resource manager. A program that ends without flushing leaves its objects to the next one (tpm2_flushcontext -t removes
// them); they never fill the TPM, for they are swapped out, and beyond 64 objects and 24 sessions the longest unused one is
// dropped.
//
// A command that cannot be told from the next one (a wrong size) is answered by TPM_RC_COMMAND_SIZE and ends that connection
// only. Control messages that would power the TPM off or on again (INIT, SHUTDOWN, STOP) are answered as done and do
// nothing; only locality 0 exists; state blobs, hashing at locality 4 and handing over descriptors are refused.
func (t *TPM) ServeTCTI(ctx context.Context, data, ctrl net.Listener) error {
	c := t.newClient()
	c.maxObjects, c.maxSessions = tctiMaxObjects, tctiMaxSessions
	s := &tctiServer{conns: map[net.Conn]struct{}{}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	serve := func(l net.Listener, name string, handle func(net.Conn)) {
		wg.Go(func() {
			if err := s.accept(ctx, l, handle); err != nil {
				cancel(fmt.Errorf("tpmsim: serving %s on the %s port %s: %w", label(t.opts), name, l.Addr(), err))
			}
		})
	}
	serve(data, "data", func(conn net.Conn) { serveData(c, conn) })
	serve(ctrl, "control", serveControl)
	<-ctx.Done()
	_ = data.Close()
	_ = ctrl.Close()
	s.closeAll()
	wg.Wait()
	s.handlers.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// ServeClients serves the TPM as raw commands on a stream: every connection is a client of its own (see [TPM.Client]), whose handles
// are flushed when it ends. It returns nil when ctx ends, after closing the listener and all connections.
func (t *TPM) ServeClients(ctx context.Context, l net.Listener) error {
	s := &tctiServer{conns: map[net.Conn]struct{}{}}
	stop := context.AfterFunc(ctx, func() {
		_ = l.Close()
		s.closeAll()
	})
	defer stop()
	err := s.accept(ctx, l, func(conn net.Conn) {
		c := t.newClient()
		serveData(c, conn)
		_ = c.Close() // a TPM that has gone keeps nothing
	})
	_ = l.Close()
	s.closeAll()
	s.handlers.Wait()
	if err != nil {
		return fmt.Errorf("tpmsim: serving clients of %s on %s: %w", label(t.opts), l.Addr(), err)
	}
	return nil
}

// tctiServer keeps the open connections, so that they can be ended.
type tctiServer struct {
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	closed   bool
	handlers sync.WaitGroup
}

func (s *tctiServer) accept(ctx context.Context, l net.Listener, handle func(net.Conn)) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			conn.Close()
			return nil
		}
		s.conns[conn] = struct{}{}
		s.handlers.Go(func() {
			defer s.forget(conn)
			handle(conn)
		})
		s.mu.Unlock()
	}
}

func (s *tctiServer) forget(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
}

func (s *tctiServer) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for conn := range s.conns {
		conn.Close()
	}
}

// serveData passes commands of one connection to the TPM until either ends.
func serveData(c *client, conn net.Conn) {
	for {
		command, err := readMessage(conn)
		if size := (*sizeError)(nil); errors.As(err, &size) {
			_, _ = conn.Write(errorResponse(rcCommandSize))
			return
		}
		if err != nil {
			return
		}
		response, err := c.Send(command)
		if err != nil {
			return // as of a TPM that has gone away
		}
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

// Control messages of swtpm (its include/swtpm/tpm_ioctl.h): a 4-byte number, then what the message needs; the answer starts
// with a 4-byte result. All numbers are big-endian.
const (
	ctlGetCapability    = 1
	ctlInit             = 2
	ctlShutdown         = 3
	ctlGetEstablished   = 4
	ctlSetLocality      = 5
	ctlCancel           = 9
	ctlResetEstablished = 0xb
	ctlStop             = 0xe
	ctlGetConfig        = 0xf
	ctlSetBufferSize    = 0x11

	// TPM 1.2 result codes, which the control channel uses.
	ctlOK          = 0
	ctlBadOrdinal  = 0xa
	ctlBadLocality = 0x3d
)

// ctlCapabilities has the bits of the messages above: init, shutdown, established, locality, cancel, reset established,
// stop, configuration, buffer size.
const ctlCapabilities = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5 | 1<<7 | 1<<10 | 1<<11 | 1<<13

// serveControl answers the control messages of one connection.
func serveControl(conn net.Conn) {
	buffer := make([]byte, 4096)
	for {
		// As swtpm does, one read is taken as one message: clients send more padding than the message needs, or less.
		n, err := io.ReadAtLeast(conn, buffer, 4)
		if err != nil {
			return
		}
		message := binary.BigEndian.Uint32(buffer)
		if need := 4 + controlArgument(message); n < need {
			_ = conn.SetReadDeadline(time.Now().Add(stopGrace))
			if _, err := io.ReadFull(conn, buffer[n:need]); err != nil {
				return
			}
			_ = conn.SetReadDeadline(time.Time{})
		}
		answer, more := controlAnswer(message, buffer[4])
		if _, err := conn.Write(answer); err != nil || !more {
			return
		}
	}
}

// controlArgument is how many bytes at least follow the number of a message.
func controlArgument(message uint32) int {
	switch message {
	case ctlSetLocality, ctlResetEstablished:
		return 1
	case ctlInit, ctlSetBufferSize:
		return 4
	}
	return 0
}

// controlAnswer returns the answer to a message whose first argument byte is argument; more is false for messages whose end
// is not known here.
func controlAnswer(message uint32, argument byte) (answer []byte, more bool) {
	switch message {
	case ctlGetCapability:
		return handles(ctlOK, ctlCapabilities), true
	case ctlInit, ctlShutdown, ctlStop, ctlCancel:
		return handles(ctlOK), true
	case ctlGetEstablished, ctlGetConfig:
		return handles(ctlOK, 0), true
	case ctlSetLocality, ctlResetEstablished:
		if argument != 0 {
			return handles(ctlBadLocality), true
		}
		return handles(ctlOK), true
	case ctlSetBufferSize:
		return handles(ctlOK, maxMessage, maxMessage, maxMessage), true
	}
	return handles(ctlBadOrdinal), false
}
