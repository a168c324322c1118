import { stat } from 'node:fs/promises'

export interface FileWatch {
  close(): void
}

/**
 * Watches files together and says when any of them became different, once they have all stood still for one look:
 * a certificate and its key are two files, and are rarely written in one instant. Looks from time to time, by path
 * and through links, since that alone notices what editors, renames and Kubernetes' swapped links do. A file that
 * is gone for a while counts as unchanged. Does not keep the process alive.
 * @param onChange is not called again before it is done; what it throws is its own business
 */
export function watchFiles(
  paths: readonly string[],
  { intervalMs, onChange }: { readonly intervalMs: number; readonly onChange: () => Promise<void> },
): FileWatch {
  let known: string | undefined
  let seen: string | undefined
  let isLooking = false
  const look = async () => {
    const current = await fingerprint(paths)
    if (current === undefined) return
    const isStill = current === seen
    seen = current
    known ??= current
    if (current === known || !isStill) return
    known = current
    await onChange()
  }
  const lookOnce = () => {
    if (isLooking) return
    isLooking = true
    void look().finally(() => {
      isLooking = false
    })
  }
  lookOnce()
  const timer = setInterval(lookOnce, intervalMs).unref()
  return { close: () => clearInterval(timer) }
}

/** What changes when a file does; undefined while one is not there. */
async function fingerprint(paths: readonly string[]): Promise<string | undefined> {
  const parts: string[] = []
  for (const path of paths) {
    try {
      const { ino, size, mtimeMs, dev } = await stat(path)
      parts.push(`${dev}:${ino}:${size}:${mtimeMs}`)
    } catch {
      return undefined
    }
  }
  return parts.join(' ')
}
