package tpmsim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// resources is the resource manager of one TPM: it knows which client owns which transient object and session, and swaps
// them out (TPM2_ContextSave) when the TPM has no room left. All methods need the TPM's turn.
type resources struct {
	device   *device // nil while there is no power
	layouts  map[uint32]commandLayout
	clients  map[*client]struct{}
	sessions map[uint32]*session // by session handle, which the TPM never changes
	clock    uint64              // counts uses, for finding the one longest unused
	swaps    int                 // how often something was swapped out
}

// object is a transient object of one client.
type object struct {
	physical uint32 // handle in the TPM, 0 while swapped out
	context  []byte // TPMS_CONTEXT while swapped out
	used     uint64
}

// session is a session that a client has started or loaded.
type session struct {
	owner   *client
	context []byte // TPMS_CONTEXT while swapped out
	used    uint64
}

func newResources() *resources {
	return &resources{clients: map[*client]struct{}{}, sessions: map[uint32]*session{}}
}

// connect takes a freshly started TPM and asks it for the layouts of its commands.
func (r *resources) connect(d *device) error {
	r.device = d
	r.forgetAll()
	if r.layouts != nil {
		return nil // the same program as before
	}
	layouts := map[uint32]commandLayout{}
	for next := uint32(0); ; {
		attributes, more, err := r.capability(capCommands, next)
		if err != nil {
			return err
		}
		for _, a := range attributes {
			code, l := layoutOf(a)
			layouts[code] = l
			next = code + 1
		}
		if !more || len(attributes) == 0 {
			break
		}
	}
	if len(layouts) == 0 {
		return errors.New("tpmsim: the TPM lists no commands")
	}
	r.layouts = layouts
	return nil
}

// disconnect notes that the power is off: nothing transient is left.
func (r *resources) disconnect() {
	r.device = nil
	r.forgetAll()
}

func (r *resources) forgetAll() {
	clear(r.sessions)
	for c := range r.clients {
		clear(c.objects)
	}
}

// transact runs a command as it is.
func (r *resources) transact(command []byte) ([]byte, error) {
	if r.device == nil {
		return nil, errors.New("tpmsim: the TPM has no power")
	}
	return r.device.transact(command)
}

// own runs a command of the resource manager and returns what follows the response's header.
func (r *resources) own(what string, code uint32, rest []byte) ([]byte, error) {
	response, err := r.transact(newCommand(code, rest))
	if err != nil {
		return nil, err
	}
	if rc := messageCode(response); rc != rcSuccess {
		return nil, &responseError{what, rc}
	}
	return response[headerSize:], nil
}

// capability reads one page of a list of 32-bit values (TPML_CC, TPML_CCA, TPML_HANDLE).
func (r *resources) capability(capability, property uint32) (values []uint32, more bool, err error) {
	body, err := r.own("TPM2_GetCapability", ccGetCapability, handles(capability, property, 256))
	if err != nil {
		return nil, false, err
	}
	if len(body) < 9 || int64(len(body)-9) != 4*int64(u32At(body, 5)) {
		return nil, false, fmt.Errorf("tpmsim: TPM2_GetCapability(%d): malformed response of %d bytes", capability, len(body))
	}
	for at := 9; at < len(body); at += 4 {
		values = append(values, u32At(body, at))
	}
	return values, body[0] == 1, nil
}

// handles writes 32-bit values one after another.
func handles(values ...uint32) []byte {
	b := make([]byte, 0, 4*len(values))
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func (r *resources) tick() uint64 {
	r.clock++
	return r.clock
}

// flush removes an object or session from the TPM; that it is gone already is fine.
func (r *resources) flush(handle uint32) error {
	_, err := r.own("TPM2_FlushContext", ccFlushContext, handles(handle))
	if rc := (*responseError)(nil); errors.As(err, &rc) {
		return nil
	}
	return err
}

// save returns the context of a loaded object or session. Saving a session unloads it.
func (r *resources) save(handle uint32) ([]byte, error) {
	context, err := r.own("TPM2_ContextSave", ccContextSave, handles(handle))
	return slices.Clone(context), err
}

func isCode(err error, rc uint32) bool {
	var re *responseError
	return errors.As(err, &re) && re.rc == rc
}

// renewOldest loads and saves the session that was swapped out first. The TPM numbers saved sessions and refuses to go on
// (TPM_RC_CONTEXT_GAP) when the oldest number lags too far behind (TPM 2.0 Library, Part 1, Context Management).
func (r *resources) renewOldest() error {
	var oldest *session
	var handle uint32
	for h, s := range r.sessions {
		if s.context != nil && (oldest == nil || binary.BigEndian.Uint64(s.context) < binary.BigEndian.Uint64(oldest.context)) {
			oldest, handle = s, h
		}
	}
	if oldest == nil {
		return &responseError{"no session of ours is to blame for the context gap", rcContextGap}
	}
	if _, err := r.own("TPM2_ContextLoad", ccContextLoad, oldest.context); err != nil {
		return err
	}
	context, err := r.own("TPM2_ContextSave", ccContextSave, handles(handle))
	if err != nil {
		oldest.context = nil // loaded
		return err
	}
	oldest.context = slices.Clone(context)
	return nil
}

// inUse is what the command being prepared needs loaded.
type inUse struct {
	objects  []*object
	sessions []*session
}

// evictObject swaps out the object longest unused that is not in keep; false if there is none.
func (r *resources) evictObject(keep *inUse) (bool, error) {
	var victim *object
	for c := range r.clients {
		for _, o := range c.objects {
			if o.physical != 0 && !slices.Contains(keep.objects, o) && (victim == nil || o.used < victim.used) {
				victim = o
			}
		}
	}
	if victim == nil {
		return false, nil
	}
	context, err := r.save(victim.physical)
	if err != nil {
		return false, err
	}
	if err := r.flush(victim.physical); err != nil {
		return false, err
	}
	victim.physical, victim.context = 0, context
	r.swaps++
	return true, nil
}

// evictSession swaps out the session longest unused that is not in keep; false if there is none.
func (r *resources) evictSession(keep *inUse) (bool, error) {
	var victim *session
	var handle uint32
	for h, s := range r.sessions {
		if s.context == nil && !slices.Contains(keep.sessions, s) && (victim == nil || s.used < victim.used) {
			victim, handle = s, h
		}
	}
	if victim == nil {
		return false, nil
	}
	context, err := r.save(handle)
	if err != nil {
		return false, err
	}
	victim.context = context
	r.swaps++
	return true, nil
}

// makeRoom swaps something out if rc says that the TPM is full; true means that it is worth trying again.
func (r *resources) makeRoom(rc uint32, keep *inUse) (bool, error) {
	switch rc {
	case rcObjectMemory:
		return r.evictObject(keep)
	case rcSessionMemory:
		return r.evictSession(keep)
	case rcContextGap:
		err := r.renewOldest()
		if isCode(err, rcContextGap) {
			return false, nil
		}
		return err == nil, err
	}
	return false, nil
}

// load swaps a context in and returns its handle.
func (r *resources) load(context []byte, keep *inUse) (uint32, error) {
	for {
		body, err := r.own("TPM2_ContextLoad", ccContextLoad, context)
		if err == nil {
			if len(body) != 4 {
				return 0, fmt.Errorf("tpmsim: TPM2_ContextLoad: response of %d bytes", len(body))
			}
			return u32At(body, 0), nil
		}
		var re *responseError
		if !errors.As(err, &re) {
			return 0, err
		}
		again, roomErr := r.makeRoom(re.rc, keep)
		if !again {
			return 0, errors.Join(err, roomErr)
		}
	}
}

func (r *resources) loadObject(o *object, keep *inUse) error {
	o.used = r.tick()
	if o.physical != 0 {
		return nil
	}
	h, err := r.load(o.context, keep)
	if err == nil {
		o.physical, o.context = h, nil
	}
	return err
}

func (r *resources) loadSession(s *session, keep *inUse) error {
	s.used = r.tick()
	if s.context == nil {
		return nil
	}
	_, err := r.load(s.context, keep)
	if err == nil {
		s.context = nil
	}
	return err
}

// release removes all that a client owns.
func (r *resources) release(c *client) error {
	delete(r.clients, c)
	var errs []error
	for _, o := range c.objects {
		if o.physical != 0 && r.device != nil {
			errs = append(errs, r.flush(o.physical))
		}
	}
	clear(c.objects)
	for h, s := range r.sessions {
		if s.owner == c {
			delete(r.sessions, h)
			if r.device != nil {
				errs = append(errs, r.flush(h))
			}
		}
	}
	return errors.Join(errs...)
}

// limitObjects drops the client's object longest unused if it has too many.
func (r *resources) limitObjects(c *client) error {
	if c.maxObjects == 0 || len(c.objects) <= c.maxObjects {
		return nil
	}
	var victim *object
	var handle uint32
	for h, o := range c.objects {
		if victim == nil || o.used < victim.used {
			victim, handle = o, h
		}
	}
	delete(c.objects, handle)
	if victim.physical == 0 {
		return nil
	}
	return r.flush(victim.physical)
}

// limitSessions drops the client's session longest unused if it has too many.
func (r *resources) limitSessions(c *client) error {
	var victim *session
	var handle uint32
	n := 0
	for h, s := range r.sessions {
		if s.owner != c {
			continue
		}
		n++
		if victim == nil || s.used < victim.used {
			victim, handle = s, h
		}
	}
	if c.maxSessions == 0 || n <= c.maxSessions {
		return nil
	}
	delete(r.sessions, handle)
	return r.flush(handle)
}

// reconcile forgets loaded objects that the TPM no longer has, after a command that flushes whole hierarchies. Those swapped
// out fail to load from now on.
func (r *resources) reconcile() error {
	present := map[uint32]bool{}
	for next := uint32(handleTransient); ; {
		list, more, err := r.capability(capHandles, next)
		if err != nil {
			return err
		}
		for _, h := range list {
			present[h] = true
			next = h + 1
		}
		if !more || len(list) == 0 {
			break
		}
	}
	for c := range r.clients {
		for v, o := range c.objects {
			if o.physical != 0 && !present[o.physical] {
				delete(c.objects, v)
			}
		}
	}
	return nil
}
