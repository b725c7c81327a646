package kind

import "testing"

// What `ctr tasks list` prints, with two containers of which one is frozen.
func TestTaskStatus(t *testing.T) {
	const list = "TASK    PID     STATUS    \naaa    2104    RUNNING\nbbb    2291    PAUSED\n"
	for id, want := range map[string]string{"aaa": "RUNNING", "bbb": "PAUSED", "ccc": "gone"} {
		if got := taskStatus(list, id); got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
	}
}
