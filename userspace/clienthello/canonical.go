// SPDX-License-Identifier: Apache-2.0

package clienthello

// CanonicalName returns a host name as Hello.ServerName would have it, for whoever
// asks about names without a ClientHello. The error is the Reason why no hello may
// carry the name.
func CanonicalName(name string) (string, error) {
	if r := checkName([]byte(name)); r != 0 {
		return "", r
	}
	return lower([]byte(name)), nil
}
