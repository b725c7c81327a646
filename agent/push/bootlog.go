package push

import "encoding/binary"

// countBootEvents counts the events of a UEFI event log in the crypto agile format
// (TCG PC Client Platform Firmware Profile, section 10), without the first one,
// which only describes the log. It stops at what it cannot read: the count is for
// the verifier's information, the log itself is sent as it is.
func countBootEvents(log []byte) int {
	rest := reader{log}
	sizes, ok := rest.specID()
	if !ok {
		return 0
	}
	n := 0
	for rest.event2(sizes) {
		n++
	}
	return n
}

// reader takes little-endian values off the front of a log.
type reader struct{ data []byte }

func (r *reader) take(n uint32) ([]byte, bool) {
	if uint64(n) > uint64(len(r.data)) {
		return nil, false
	}
	var part []byte
	part, r.data = r.data[:n], r.data[n:]
	return part, true
}

func (r *reader) u16() (uint16, bool) {
	b, ok := r.take(2)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint16(b), true
}

func (r *reader) u32() (uint32, bool) {
	b, ok := r.take(4)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}

// sized takes a u32 and that many bytes.
func (r *reader) sized() ([]byte, bool) {
	n, ok := r.u32()
	if !ok {
		return nil, false
	}
	return r.take(n)
}

// specID takes the first event, a TCG_PCClientPCREvent with a TCG_EfiSpecIDEvent in
// it, and returns the digest sizes in bytes by algorithm.
func (r *reader) specID() (map[uint16]uint16, bool) {
	if _, ok := r.take(4 + 4 + 20); !ok { // PCR, type, SHA-1 digest
		return nil, false
	}
	data, ok := r.sized()
	if !ok {
		return nil, false
	}
	event := reader{data}
	signature, ok := event.take(16)
	if !ok || string(signature) != "Spec ID Event03\x00" {
		return nil, false
	}
	if _, ok := event.take(4 + 4); !ok { // platform class, versions
		return nil, false
	}
	count, ok := event.u32()
	if !ok {
		return nil, false
	}
	sizes := map[uint16]uint16{}
	for range count {
		algorithm, _ := event.u16()
		size, ok := event.u16()
		if !ok {
			return nil, false
		}
		sizes[algorithm] = size
	}
	return sizes, true
}

// event2 takes a TCG_PCR_EVENT2.
func (r *reader) event2(sizes map[uint16]uint16) bool {
	if _, ok := r.take(4 + 4); !ok { // PCR, type
		return false
	}
	digests, ok := r.u32()
	if !ok {
		return false
	}
	for range digests {
		algorithm, ok := r.u16()
		size, known := sizes[algorithm]
		if !ok || !known {
			return false
		}
		if _, ok := r.take(uint32(size)); !ok {
			return false
		}
	}
	_, ok = r.sized()
	return ok
}
