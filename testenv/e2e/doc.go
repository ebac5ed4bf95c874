// SPDX-License-Identifier: Apache-2.0

// Package e2e holds the tests of the whole agent, as a process of its own in a
// network of namespaces. It has no code but tests.
package e2e
