"""DPM-Solver and DPM-Solver++, multistep, as an ODE and as an SDE.

Lu et al. 2022: DPM-Solver (arXiv:2206.00927, eq. 3.4) solves for the noise prediction, DPM-Solver++ (arXiv:2211.01095,
eq. 8 and algorithm 2) for the data prediction. Both are one formula. With lambda = log(alpha / sigma), h the step in
it, D0, D1, D2 backward differences of the prediction and phi_j(k) the integrals of exp against the powers of lambda,

    x' = c x - a (phi_1(k) D0 + phi_2(k) D1 + phi_3(k) D2) + b z

                         prediction   c                      a          k      b
    dpmsolver            eps          alpha'/alpha           sigma'     h      0
    dpmsolver++          x0           sigma'/sigma           -alpha'... 
"""
