// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrSockmapKernel: the kernel is not known to have what makes sockmap right.
var ErrSockmapKernel = errors.New("sockmap is off by default on this kernel")

// sockmapFixed are the stable releases that have the fixes to sockmap and sk_msg which
// the short cut depends on, by series; later series have them from the start.
var sockmapFixed = map[[2]int]int{{6, 1}: 192, {6, 12}: 105}

var sockmapSince = [2]int{6, 18}

// SockmapKernel returns nil if the running kernel is one on which the short cut is used
// without being asked for, or ErrSockmapKernel with what it is instead.
func SockmapKernel() error { return sockmapKernel() }

// The kernel stays as it is while it runs.
var sockmapKernel = sync.OnceValue(func() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("%w: %w", ErrSockmapKernel, err)
	}
	signature, _ := os.ReadFile("/proc/version_signature")
	v, ok := stableVersion(unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Version[:]), string(signature))
	if !ok {
		return fmt.Errorf("%w: what stable release %s is made from is not known", ErrSockmapKernel, unix.ByteSliceToString(name.Release[:]))
	}
	return sockmapVersion(v)
})

func sockmapVersion(v [3]int) error {
	if slices.Compare(v[:2], sockmapSince[:]) >= 0 {
		return nil
	}
	fixed, ok := sockmapFixed[[2]int{v[0], v[1]}]
	switch {
	case ok && v[2] >= fixed:
		return nil
	case ok:
		return fmt.Errorf("%w: it is %d.%d.%d, the fixes that it depends on are in %d.%d.%d", ErrSockmapKernel, v[0], v[1], v[2], v[0], v[1], fixed)
	}
	return fmt.Errorf("%w: it is %d.%d.%d, the fixes that it depends on are in 6.1.192, 6.12.105 and 6.18", ErrSockmapKernel, v[0], v[1], v[2])
}

var (
	// Debian's release is the name of its interface; the version says what it is:
	// "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-10-01)".
	debianVersion  = regexp.MustCompile(`Debian (\d+\.\d+\.\d+)`)
	releaseVersion = regexp.MustCompile(`^\d+\.\d+\.\d+`)
)

// stableVersion is the kernel.org release that a kernel is made from. A vendor's kernel
// that takes fixes in its own way has none.
func stableVersion(release, version, signature string) (v [3]int, ok bool) {
	text := releaseVersion.FindString(release)
	switch {
	case debianVersion.MatchString(version):
		text = debianVersion.FindStringSubmatch(version)[1]
	case signature != "": // Ubuntu 6.8.0-45.45-generic 6.8.12
		fields := strings.Fields(signature)
		text = releaseVersion.FindString(fields[len(fields)-1])
	case strings.Contains(release, ".el"):
		return v, false
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
