package tpmsim

import (
	"encoding/binary"
	"fmt"
)

// Sizes of messages in bytes (TPM 2.0 Library, Part 1, section 18.2). The greatest command and response of both backends is
// 4096.
const (
	headerSize = 10
	maxMessage = 4096
)

// Numbers that the resource manager needs (TPM 2.0 Library, Part 2, sections 6.5, 6.6, 6.9, 6.12 and 7.2).
const (
	tagNoSessions = 0x8001
	tagSessions   = 0x8002

	ccHierarchyControl = 0x121
	ccChangeEPS        = 0x124
	ccChangePPS        = 0x125
	ccClear            = 0x126
	ccStartup          = 0x144
	ccShutdown         = 0x145
	ccContextLoad      = 0x161
	ccContextSave      = 0x162
	ccFlushContext     = 0x165
	ccGetCapability    = 0x17a
	ccGetRandom        = 0x17b

	tagResponse = 0x00c4 // of the response to a command with an unknown tag

	rcSuccess       = 0x000
	rcBadTag        = 0x01e
	rcCommandSize   = 0x142
	rcSize          = 0x095 // TPM_RC_SIZE, format one
	rcHandle        = 0x08b // TPM_RC_HANDLE, format one
	rcContextGap    = 0x901
	rcObjectMemory  = 0x902
	rcSessionMemory = 0x903
	rcReferenceH0   = 0x910
	rcReferenceS0   = 0x918
	rcParameter     = 0x040 // added to a format one code: it is about a parameter,
	rcNumberShift   = 8     // whose number, or the number of a handle, stands here

	handleTypeMask      = 0xff000000
	handleHMACSession   = 0x02000000
	handlePolicySession = 0x03000000
	handleTransient     = 0x80000000

	capHandles  = 1
	capCommands = 2

	suClear = 0
)

// newCommand makes a command without sessions.
func newCommand(code uint32, rest []byte) []byte {
	return newMessage(tagNoSessions, code, rest)
}

// errorResponse makes the response that a TPM gives when it fails with rc.
func errorResponse(rc uint32) []byte {
	if rc == rcBadTag {
		return newMessage(tagResponse, rc, nil)
	}
	return newMessage(tagNoSessions, rc, nil)
}

func newMessage(tag uint16, code uint32, rest []byte) []byte {
	m := make([]byte, headerSize, headerSize+len(rest))
	binary.BigEndian.PutUint16(m, tag)
	binary.BigEndian.PutUint32(m[2:], uint32(headerSize+len(rest)))
	binary.BigEndian.PutUint32(m[6:], code)
	return append(m, rest...)
}

func messageTag(m []byte) uint16  { return binary.BigEndian.Uint16(m) }
func messageCode(m []byte) uint32 { return binary.BigEndian.Uint32(m[6:]) }

func u32At(m []byte, at int) uint32       { return binary.BigEndian.Uint32(m[at:]) }
func putU32At(m []byte, at int, v uint32) { binary.BigEndian.PutUint32(m[at:], v) }

func isSession(handle uint32) bool {
	t := handle & handleTypeMask
	return t == handleHMACSession || t == handlePolicySession
}

func isTransient(handle uint32) bool { return handle&handleTypeMask == handleTransient }

// commandLayout is what the resource manager must know of a command code; it comes from the TPM itself as TPMA_CC
// (TPM 2.0 Library, Part 2, section 8.9).
type commandLayout struct {
	handles        int  // how many handles follow the header of the command
	responseHandle bool // whether one follows the header of the response
	flushes        bool // success removes the transient objects that it names
}

func layoutOf(attributes uint32) (code uint32, l commandLayout) {
	const vendor = 1 << 29
	return attributes & (0xffff | vendor), commandLayout{
		handles:        int(attributes >> 25 & 7),
		responseHandle: attributes>>28&1 == 1,
		flushes:        attributes>>24&1 == 1,
	}
}

// sessionUse is one entry of a command's authorization area.
type sessionUse struct {
	handle    uint32
	continues bool // the continueSession attribute: the session outlives the command
}

// parsedCommand is a command whose structure is known to be sound as far as the resource manager looks.
type parsedCommand struct {
	raw      []byte
	code     uint32
	layout   commandLayout
	known    bool // the TPM has this command
	sessions []sessionUse
}

// parseCommand checks the size and the authorization area of a command. When the command is malformed it returns the
// response code that a TPM would give (TPM 2.0 Library, Part 3, section 5) instead.
func parseCommand(raw []byte, layouts map[uint32]commandLayout) (*parsedCommand, uint32) {
	if len(raw) < headerSize || int64(u32At(raw, 2)) != int64(len(raw)) || len(raw) > maxMessage {
		return nil, rcCommandSize
	}
	if tag := messageTag(raw); tag != tagNoSessions && tag != tagSessions {
		return nil, rcBadTag
	}
	c := &parsedCommand{raw: raw, code: messageCode(raw)}
	c.layout, c.known = layouts[c.code]
	if !c.known {
		return c, rcSuccess // let the TPM say so
	}
	at := headerSize + 4*c.layout.handles
	if at > len(raw) {
		return nil, rcCommandSize
	}
	if messageTag(raw) != tagSessions {
		return c, rcSuccess
	}
	if at+4 > len(raw) {
		return nil, rcCommandSize
	}
	size := int64(u32At(raw, at))
	area := raw[at+4:]
	if size > int64(len(area)) {
		return nil, rcSize
	}
	for area = area[:size]; len(area) > 0; {
		use, n := parseSessionUse(area)
		if n == 0 || len(c.sessions) == 3 {
			return nil, rcSize
		}
		c.sessions = append(c.sessions, use)
		area = area[n:]
	}
	return c, rcSuccess
}

// parseSessionUse reads a TPMS_AUTH_COMMAND (TPM 2.0 Library, Part 2, section 10.13.2): handle, nonce TPM2B, attributes,
// HMAC TPM2B. It returns how many bytes it takes, 0 if it is cut short.
func parseSessionUse(b []byte) (sessionUse, int) {
	if len(b) < 4+2 {
		return sessionUse{}, 0
	}
	at := 6 + int(binary.BigEndian.Uint16(b[4:]))
	if at+1+2 > len(b) {
		return sessionUse{}, 0
	}
	end := at + 3 + int(binary.BigEndian.Uint16(b[at+1:]))
	if end > len(b) {
		return sessionUse{}, 0
	}
	return sessionUse{handle: u32At(b, 0), continues: b[at]&1 == 1}, end
}

// handle returns the i-th handle of the command.
func (c *parsedCommand) handle(i int) uint32 { return u32At(c.raw, headerSize+4*i) }

func (c *parsedCommand) setHandle(i int, h uint32) { putU32At(c.raw, headerSize+4*i, h) }

// responseError is a response code other than success to a command of our own.
type responseError struct {
	what string
	rc   uint32
}

func (e *responseError) Error() string {
	return fmt.Sprintf("tpmsim: %s: TPM answered %#x", e.what, e.rc)
}
