import { mkdir } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { writeFileAtomic } from '../../../shared/files/atomic-write.ts'
import { defineCommand } from '../../command-line.ts'
import { StartError } from '../../start-errors.ts'
import { caPaths, defaultFolder, dirOption } from './folder.ts'

/** `outport certs init` */
export const init = defineCommand({
  name: 'certs init',
  summary: 'make a CA for server certificates, valid ten years',
  options: { dir: dirOption },
  notes: `Writes ca.crt, which clients are given, and ca.key (mode 0600), which never leaves this place.`,
  async run({ dir = defaultFolder }) {
    const { cert, key } = caPaths(dir)
    for (const path of [key, cert]) {
      if (existsSync(path)) {
        throw new StartError(
          `${path} exists: clients that trust it would refuse a new CA's certificates; remove it first, or choose another --dir`,
        )
      }
    }
    await mkdir(dir, { recursive: true })
    const { createCa } = await import('../../../shared/trust/pki.ts')
    const ca = await createCa('Outport CA', new Date())
    await writeFileAtomic(key, ca.key, { mode: 0o600 })
    await writeFileAtomic(cert, ca.cert, { mode: 0o644 })
    process.stdout.write(`${cert}\n${key}\n`)
    return 0
  },
})
