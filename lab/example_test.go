package lab_test

import (
	"context"
	"fmt"
	"log"

	"keylab.dev/keylab/lab"
)

// A program, or a test, brings up a lab of two nodes, has it prove its claims, and leaves nothing behind. Its main, or its
// TestMain, has called lab.Init first.
func Example() {
	ctx := context.Background()
	l, err := lab.Up(ctx, lab.Spec{Name: "example", Nodes: lab.Nodes{Count: 2}}, lab.UpOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Wipe(ctx)
	result, err := l.Verify(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range result.Checks {
		fmt.Println(c.Point, c.Name(), c.Status)
	}
}
