// Package e2e drives the keylab program as its users do, against a real Docker and a real kind cluster. It holds nothing but tests.
package e2e
