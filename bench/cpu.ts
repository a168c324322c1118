import { readdirSync, readFileSync } from 'node:fs'

/**
 * CPU seconds that a process and all its descendants have used so far, from the scheduler's own count
 * of each living thread, and of the children that ended (in ticks of 10 ms).
 */
export function treeCpuSeconds(pid: number): number {
  return treeOf(pid).reduce((sum, each) => sum + threadSeconds(each) + endedSeconds(each), 0)
}

/** The process and its descendants. */
export function treeOf(pid: number): number[] {
  return [pid, ...threadsOf(pid).flatMap((thread) => childrenOf(pid, thread).flatMap(treeOf))]
}

function threadSeconds(pid: number): number {
  return threadsOf(pid).reduce((sum, thread) => {
    const [runNs = '0'] = read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')
    return sum + Number(runNs) / 1e9
  }, 0)
}

// Fields 16 and 17: user and system ticks of children that were waited for. [proc(5), /proc/pid/stat]
function endedSeconds(pid: number): number {
  const stat = read(`/proc/${pid}/stat`)
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[13] ?? 0) + Number(fields[14] ?? 0)) / 100
}

function threadsOf(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`)
  } catch {
    return []
  }
}

function childrenOf(pid: number, thread: string): number[] {
  const children = read(`/proc/${pid}/task/${thread}/children`).trim()
  return children === '' ? [] : children.split(' ').map(Number)
}

// A thread may end between two looks.
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
