import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'

/** The congestion control of the benches, which changes what loopback costs: `bbr` paces. */
export type Network = 'reno' | (string & {})

const marker = 'OUTPORT_BENCH_NAMESPACE'
const inside = [
  'ip link set lo up',
  'sysctl -qw net.ipv4.tcp_congestion_control=reno',
  'exec "$@"',
].join(' && ')

/** Whether this process may make a private network namespace, and is not in one yet. */
function mayEnter(): boolean {
  if (process.getuid?.() !== 0 || process.env[marker] !== undefined) return false
  return spawnSync('unshare', ['-n', 'sh', '-c', inside, 'sh', 'true']).status === 0
}

/**
 * Runs this program again in a private network namespace with reno, where loopback has no pacing and
 * nobody else's traffic. No setting of the machine is touched.
 * @returns the exit code of that run, or undefined when this process is to go on itself
 */
export function runInNamespace(): number | undefined {
  if (!mayEnter()) return undefined
  const command = ['sh', '-c', inside, 'sh', process.execPath, ...process.argv.slice(1)]
  const { status } = spawnSync('unshare', ['-n', ...command], {
    stdio: 'inherit',
    env: { ...process.env, [marker]: 'here' },
  })
  return status ?? 1
}

/** What congestion control new connections get here. */
export function network(): Network {
  return readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'latin1').trim()
}
