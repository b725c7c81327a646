package tpmsim

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzCommand feeds the parser what a client may send; whatever it accepts must be safe to look at and to rewrite.
func FuzzCommand(f *testing.F) {
	layouts := map[uint32]commandLayout{
		ccGetRandom:   {},
		ccContextSave: {handles: 1},
		0x107:         {handles: 3},
		0x131:         {handles: 1, responseHandle: true},
	}
	f.Add(newCommand(ccGetRandom, []byte{0, 8}))
	f.Add(newCommand(ccContextSave, []byte{0x80, 0, 0, 0}))
	f.Add(newMessage(tagSessions, 0x131, append(handles(0x40000001, 9, 0x40000009), 0, 0, 1, 0, 0)))
	f.Add(newMessage(tagSessions, 0x131, append(handles(0x40000001, 0xffffffff, 0x02000000), 0xff, 0xff, 1, 0xff, 0xff)))
	f.Add(newMessage(tagSessions, 0x107, handles(1, 2)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		cmd, rc := parseCommand(bytes.Clone(raw), layouts)
		if (cmd == nil) != (rc != rcSuccess) {
			t.Fatalf("command %v with code %#x", cmd, rc)
		}
		if cmd == nil {
			return
		}
		if len(cmd.sessions) > 3 {
			t.Errorf("%d sessions", len(cmd.sessions))
		}
		for i := range cmd.layout.handles {
			cmd.setHandle(i, cmd.handle(i))
		}
		if !bytes.Equal(cmd.raw, raw) {
			t.Error("handles are not where they were read")
		}
		got, err := readMessage(bytes.NewReader(raw))
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("a sound command does not pass a stream: %v", err)
		}
	})
}

func FuzzReadMessage(f *testing.F) {
	f.Add(newCommand(ccGetRandom, []byte{0, 8}))
	f.Add([]byte{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := readMessage(bytes.NewReader(data))
		var size *sizeError
		switch {
		case errors.As(err, &size):
			if size.size >= headerSize && size.size <= maxMessage {
				t.Errorf("size %d refused", size.size)
			}
		case err == nil && (len(m) < headerSize || int(u32At(m, 2)) != len(m)):
			t.Errorf("message %x", m)
		}
	})
}
