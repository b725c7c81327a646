package hostlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// Packets go through a stream each after its length, in two bytes, and, where one socket has many peers, the peer's address.

// maxPacket is how long a UDP packet may be, in bytes.
const maxPacket = 1<<16 - 1

// packets reads and writes packets through a stream.
type packets struct {
	stream  *yamux.Stream
	reading sync.Mutex
	partial []byte // of the next packet: a deadline may have come in the middle of it
	writing sync.Mutex
}

func (p *packets) read() ([]byte, error) {
	p.reading.Lock()
	defer p.reading.Unlock()
	more := func(size int) error {
		for len(p.partial) < size {
			buffer := make([]byte, size-len(p.partial))
			n, err := p.stream.Read(buffer)
			p.partial = append(p.partial, buffer[:n]...)
			if err != nil && len(p.partial) < size {
				return err
			}
		}
		return nil
	}
	if err := more(2); err != nil {
		return nil, err
	}
	size := 2 + int(binary.BigEndian.Uint16(p.partial))
	if err := more(size); err != nil {
		return nil, err
	}
	packet := p.partial[2:size]
	p.partial = nil
	return packet, nil
}

func (p *packets) write(packet []byte) error {
	if len(packet) > maxPacket {
		return fmt.Errorf("a packet of %d bytes is too long", len(packet))
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := p.stream.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packet))), packet...))
	return err
}

// packetConn is a connected UDP socket of the container.
type packetConn struct {
	conn
	packets
}

func newPacketConn(stream *yamux.Stream) *packetConn {
	return &packetConn{conn: conn{Stream: stream}, packets: packets{stream: stream}}
}

// Read reads one packet; what of it is too long for b is lost.
func (c *packetConn) Read(b []byte) (int, error) {
	packet, err := c.read()
	return copy(b, packet), deadlineOver(err)
}

// Write sends one packet.
func (c *packetConn) Write(b []byte) (int, error) {
	if err := c.write(b); err != nil {
		return 0, deadlineOver(err)
	}
	return len(b), nil
}

// relayPackets copies both ways between a connected socket and the client until either has ended.
func relayPackets(socket net.Conn, stream *yamux.Stream) {
	p := &packets{stream: stream}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer socket.Close()
		for {
			packet, err := p.read()
			if err != nil {
				return
			}
			_, _ = socket.Write(packet) // it may be lost, as any packet
		}
	}()
	buffer := make([]byte, maxPacket)
	for {
		n, err := socket.Read(buffer)
		if errors.Is(err, syscall.ECONNREFUSED) { // of an earlier packet
			continue
		}
		if err != nil || p.write(buffer[:n]) != nil {
			break
		}
	}
	stream.Close()
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	<-done
}

// addressed puts the peer's address before a packet.
func addressed(peer netip.AddrPort, packet []byte) ([]byte, error) {
	address, err := peer.MarshalBinary()
	if err != nil {
		return nil, err
	}
	return append(append([]byte{byte(len(address))}, address...), packet...), nil
}

// unaddressed takes it off.
func unaddressed(data []byte) (peer netip.AddrPort, packet []byte, err error) {
	if len(data) == 0 || len(data) < 1+int(data[0]) {
		return peer, nil, io.ErrUnexpectedEOF
	}
	err = peer.UnmarshalBinary(data[1 : 1+int(data[0])])
	return peer, data[1+int(data[0]):], err
}

// peersConn is an unconnected UDP socket of the container.
type peersConn struct {
	*packetConn
	local netip.AddrPort
}

// ReadFrom implements net.PacketConn.
func (c *peersConn) ReadFrom(b []byte) (int, net.Addr, error) {
	data, err := c.read()
	if err != nil {
		return 0, nil, deadlineOver(err)
	}
	peer, packet, err := unaddressed(data)
	return copy(b, packet), net.UDPAddrFromAddrPort(peer), err
}

// WriteTo implements net.PacketConn.
func (c *peersConn) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, fmt.Errorf("%v is no UDP address", to)
	}
	data, err := addressed(udp.AddrPort(), b)
	if err == nil {
		err = c.write(data)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// LocalAddr is the socket's address in the container.
func (c *peersConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

// relayPeers copies both ways between a socket and the client until either has ended.
func relayPeers(socket net.PacketConn, stream *yamux.Stream) {
	p := &packets{stream: stream}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer socket.Close()
		for {
			data, err := p.read()
			if err != nil {
				return
			}
			peer, packet, err := unaddressed(data)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(packet, net.UDPAddrFromAddrPort(peer)) // it may be lost, as any packet
		}
	}()
	buffer := make([]byte, maxPacket)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			break
		}
		udp, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		data, err := addressed(netip.AddrPortFrom(udp.AddrPort().Addr().Unmap(), udp.AddrPort().Port()), buffer[:n])
		if err != nil || p.write(data) != nil {
			break
		}
	}
	stream.Close()
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	<-done
}
