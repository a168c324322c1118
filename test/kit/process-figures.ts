import { readFileSync } from 'node:fs'

/** Resident memory of a process, in bytes. [proc(5), /proc/PID/status] */
export function residentBytes(pid: number): number {
  return 1024 * numberIn(`/proc/${pid}/status`, /^VmRSS:\s+(\d+) kB$/m)
}

/** Bytes that a process has read since its start, from files, pipes and sockets. [proc(5), /proc/PID/io] */
export function readBytes(pid: number): number {
  return numberIn(`/proc/${pid}/io`, /^rchar: (\d+)$/m)
}

function numberIn(path: string, pattern: RegExp): number {
  const found = pattern.exec(readFileSync(path, 'latin1'))?.[1]
  if (found === undefined) throw new Error(`${path} has no ${pattern.source}`)
  return Number(found)
}
