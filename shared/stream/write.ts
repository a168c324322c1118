import type { Writable } from 'node:stream'

/** Writes, and resolves once the stream has taken it: a slow reader holds back nobody but its own writer. */
export function writeAll(stream: Writable, bytes: Buffer | string): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(bytes, (error) => {
      if (error === undefined || error === null) resolve()
      else reject(error)
    })
  })
}
