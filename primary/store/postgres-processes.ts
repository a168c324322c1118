import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { sep } from 'node:path'

/** A running program of PostgreSQL. */
export interface PostgresProcess {
  readonly pid: number
  readonly program: 'postgres' | 'initdb'
}

/**
 * PostgreSQL's processes that work in a folder or below it. Its server and backends work in their cluster's folder;
 * whoever else does (a shell, an editor, a backup) is none of ours. The dead are not listed, reaped or not.
 * @param folder its real path, as the kernel tells it
 */
export function postgresProcessesIn(folder: string): readonly PostgresProcess[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .flatMap((pid) => lookAt(pid, folder) ?? [])
}

/** Whether a process of PostgreSQL still lives in the folder under this pid. */
export function isPostgresIn(pid: number, folder: string): boolean {
  return lookAt(pid, folder) !== undefined
}

/** [proc(5)] */
function lookAt(pid: number, folder: string): PostgresProcess | undefined {
  try {
    if (!`${readlinkSync(`/proc/${pid}/cwd`)}${sep}`.startsWith(`${folder}${sep}`)) return undefined
    // Not the path of its binary: the installation may have been moved or replaced since.
    const program = readFileSync(`/proc/${pid}/comm`, 'utf8').trim()
    return program === 'postgres' || program === 'initdb' ? { pid, program } : undefined
  } catch {
    // It has ended, or is somebody else's.
    return undefined
  }
}

/** Sends a signal to a process, or with a negative pid to its group; nothing when it has ended. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // It has ended.
  }
}
