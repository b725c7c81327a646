package tpmsim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2/transport"
)

// client is one user of the TPM; it implements [transport.TPMCloser].
type client struct {
	tpm *TPM
	// The rest needs the TPM's turn.
	objects map[uint32]*object // by the handle that the client knows
	closed  bool
	// Over these, what is longest unused is dropped; 0 is no limit.
	maxObjects, maxSessions int
}

// Client returns a new connection to the TPM for go-tpm (and, by transport.ToReadWriter, for older packages). It may be used
// by several goroutines; commands of all clients are run one at a time, whole.
//
// Each client has transient handles of its own, counted from 0x80000000, and its own sessions; others cannot name them. More
// objects and sessions can be loaded than the TPM has room for. TPM2_GetCapability lists only the client's own. Close
// flushes all of them. A session that the client itself saved with TPM2_ContextSave stays, as tpm2-tools expect, and belongs
// to whoever loads it next.
//
// Send returns the TPM's response, error codes included; a malformed command gets an error response too and does not reach
// the TPM. The error is non-nil only if the TPM cannot be reached: it is closed, or its process has died ([*ProcessError]).
func (t *TPM) Client() transport.TPMCloser { return t.newClient() }

func (t *TPM) newClient() *client {
	return &client{tpm: t, objects: map[uint32]*object{}}
}

var errClientClosed = errors.New("tpmsim: this client of the TPM is closed")

// Send runs one command. See [TPM.Client].
func (c *client) Send(command []byte) ([]byte, error) {
	// Without a deadline this waits only for other commands, which end when their process does.
	if err := c.tpm.take(context.Background()); err != nil {
		return nil, err
	}
	defer c.tpm.give()
	if c.closed {
		return nil, errClientClosed
	}
	if err := c.tpm.unusable(); err != nil {
		return nil, err
	}
	c.tpm.clients[c] = struct{}{}
	return c.tpm.resources.run(c, slices.Clone(command))
}

// Close flushes all that the client left in the TPM. A second Close does nothing.
func (c *client) Close() error {
	if err := c.tpm.take(context.Background()); err != nil {
		return err
	}
	defer c.tpm.give()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.tpm.unusable() != nil {
		delete(c.tpm.clients, c)
		return nil // nothing is left in a TPM without power
	}
	if err := c.tpm.release(c); err != nil {
		return fmt.Errorf("tpmsim: flushing what a client left in %s: %w", label(c.tpm.opts), err)
	}
	return nil
}

// run executes a command of client c; raw belongs to run.
func (r *resources) run(c *client, raw []byte) ([]byte, error) {
	cmd, rc := parseCommand(raw, r.layouts)
	if rc != rcSuccess {
		return errorResponse(rc), nil
	}
	switch {
	case !cmd.known:
		return r.transact(raw)
	case cmd.code == ccFlushContext:
		return r.runFlush(c, cmd)
	case cmd.code == ccGetCapability && messageTag(raw) == tagNoSessions:
		if response, done, err := r.runGetHandles(c, cmd); done || err != nil {
			return response, err
		}
	}

	need, rc := r.needs(c, cmd)
	if rc != rcSuccess {
		return errorResponse(rc), nil
	}
	virtual := make([]uint32, cmd.layout.handles)
	for i := range virtual {
		virtual[i] = cmd.handle(i)
	}
	response, err := r.execute(c, cmd, need, virtual)
	if err != nil {
		// A refusal to load is this client's affair; a broken stream is the TPM's end.
		var re *responseError
		if errors.As(err, &re) {
			return errorResponse(re.rc), nil
		}
		return nil, err
	}
	if messageCode(response) != rcSuccess {
		return response, nil
	}
	return response, r.account(c, cmd, virtual, response)
}

// needs finds what the command refers to, and the response code if the client may not.
func (r *resources) needs(c *client, cmd *parsedCommand) (*inUse, uint32) {
	need := &inUse{}
	for i := range cmd.layout.handles {
		switch h := cmd.handle(i); {
		case isTransient(h):
			o := c.objects[h]
			if o == nil {
				return nil, rcReferenceH0 + uint32(i)
			}
			need.objects = append(need.objects, o)
		case isSession(h):
			s := r.sessions[h]
			if s == nil || s.owner != c {
				return nil, rcReferenceH0 + uint32(i)
			}
			need.sessions = append(need.sessions, s)
		}
	}
	for i, use := range cmd.sessions {
		if !isSession(use.handle) {
			continue // a password
		}
		s := r.sessions[use.handle]
		if s == nil || s.owner != c {
			return nil, rcReferenceS0 + uint32(i)
		}
		need.sessions = append(need.sessions, s)
	}
	return need, rcSuccess
}

// execute loads what is needed and sends the command, again after making room if the TPM is full. A TPM that fails for want
// of room has changed nothing, so that the same bytes, authorizations included, are
// good for another try.
func (r *resources) execute(c *client, cmd *parsedCommand, need *inUse, virtual []uint32) ([]byte, error) {
	for {
		for _, s := range need.sessions {
			if err := r.loadSession(s, need); err != nil {
				return nil, err
			}
		}
		for _, o := range need.objects {
			if err := r.loadObject(o, need); err != nil {
				return nil, err
			}
		}
		for i, h := range virtual {
			if isTransient(h) {
				cmd.setHandle(i, c.objects[h].physical)
			}
		}
		response, err := r.transact(cmd.raw)
		if err != nil {
			return nil, err
		}
		again, err := r.makeRoom(messageCode(response), need)
		if err != nil {
			return nil, err
		}
		if !again {
			return response, nil
		}
	}
}

// account notes what a successful command has created and removed, and puts the client's own handle into the response.
func (r *resources) account(c *client, cmd *parsedCommand, virtual []uint32, response []byte) error {
	for _, use := range cmd.sessions {
		if !use.continues {
			delete(r.sessions, use.handle)
		}
	}
	if cmd.layout.flushes {
		for _, h := range virtual {
			delete(c.objects, h) // only transient handles are in there
		}
	}
	switch cmd.code {
	case ccContextSave:
		delete(r.sessions, virtual[0]) // the client keeps it itself now
	case ccClear, ccHierarchyControl, ccChangeEPS, ccChangePPS:
		return r.reconcile()
	}
	if !cmd.layout.responseHandle || len(response) < headerSize+4 {
		return nil
	}
	switch h := u32At(response, headerSize); {
	case isSession(h):
		r.sessions[h] = &session{owner: c, used: r.tick()}
		return r.limitSessions(c)
	case isTransient(h):
		v := c.freeHandle()
		c.objects[v] = &object{physical: h, used: r.tick()}
		putU32At(response, headerSize, v)
		return r.limitObjects(c)
	}
	return nil
}

func (c *client) freeHandle() uint32 {
	h := uint32(handleTransient)
	for c.objects[h] != nil {
		h++
	}
	return h
}

// runFlush does TPM2_FlushContext, whose handle is a parameter (TPM 2.0 Library, Part 3, section 28.4).
func (r *resources) runFlush(c *client, cmd *parsedCommand) ([]byte, error) {
	if len(cmd.raw) != headerSize+4 || messageTag(cmd.raw) != tagNoSessions {
		return r.transact(cmd.raw) // malformed; the TPM knows the right code
	}
	const badHandle = rcHandle | rcParameter | 1<<rcNumberShift
	switch h := cmd.handle(0); {
	case isTransient(h):
		o := c.objects[h]
		if o == nil {
			return errorResponse(badHandle), nil
		}
		delete(c.objects, h)
		if o.physical == 0 {
			return newMessage(tagNoSessions, rcSuccess, nil), nil // it exists as a context only
		}
		cmd.setHandle(0, o.physical)
	case isSession(h):
		// One that nobody owns was saved by a client, perhaps of an earlier day, and anybody may remove it.
		if s := r.sessions[h]; s != nil {
			if s.owner != c {
				return errorResponse(badHandle), nil
			}
			delete(r.sessions, h)
		}
	}
	return r.transact(cmd.raw)
}

// runGetHandles answers TPM2_GetCapability for transient objects and sessions with what the client owns; done is false
// for all other capabilities.
func (r *resources) runGetHandles(c *client, cmd *parsedCommand) (response []byte, done bool, err error) {
	if len(cmd.raw) != headerSize+12 || u32At(cmd.raw, headerSize) != capHandles {
		return nil, false, nil
	}
	property, count := u32At(cmd.raw, headerSize+4), u32At(cmd.raw, headerSize+8)
	var list []uint32
	switch property & handleTypeMask {
	case handleTransient:
		for h := range c.objects {
			list = append(list, h)
		}
	case handleHMACSession: // stands for the loaded sessions here (TPM_HT_LOADED_SESSION)
		for h, s := range r.sessions {
			if s.owner == c {
				list = append(list, h)
			}
		}
	case handlePolicySession: // stands for the saved sessions here (TPM_HT_SAVED_SESSION)
		saved, _, err := r.capability(capHandles, property)
		if err != nil {
			return nil, false, err
		}
		for _, h := range saved {
			if !r.manages(h) {
				list = append(list, h)
			}
		}
	default:
		return nil, false, nil
	}
	const index = ^uint32(handleTypeMask)
	list = slices.DeleteFunc(list, func(h uint32) bool { return h&index < property&index })
	slices.SortFunc(list, func(a, b uint32) int { return int(a&index) - int(b&index) })
	more := byte(0)
	// As many as fit into one response, as a TPM does it.
	if most := min(count, 254); uint32(len(list)) > most {
		list, more = list[:most], 1
	}
	body := append([]byte{more}, handles(capHandles, uint32(len(list)))...)
	return newMessage(tagNoSessions, rcSuccess, append(body, handles(list...)...)), true, nil
}

// manages tells whether a session number is one of a client, whatever type the handle has.
func (r *resources) manages(handle uint32) bool {
	return r.sessions[handle&^uint32(handleTypeMask)|handleHMACSession] != nil ||
		r.sessions[handle&^uint32(handleTypeMask)|handlePolicySession] != nil
}
