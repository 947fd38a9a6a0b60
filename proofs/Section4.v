(* Section 4 of the paper: the optimal policy (4), the reward through it (5), preferences (6),
   the DPO loss (7), its gradient, and what its minimum is. *)

From Coq Require Import Reals List Lra.
From DPO Require Import Sums Section3.
Import ListNotations.
Open Scope R_scope.

Section Definitions.
  Context {X Y : Type}.
  (* All prompts share this list; an answer that a prompt lacks has pi_ref zero there. *)
  Variable answers : list Y.
  Variable pi_ref : X -> Y -> R.
  Variable beta : R.

  (* The partition function (unnumbered, after (4)). *)
  Definition Z (r : X -> Y -> R) (x : X) : R :=
    sum answers (fun y => pi_ref x y * exp (r x y / beta)).

  (* (4) *)
  Definition pi_r (r : X -> Y -> R) (x : X) (y : Y) : R :=
    1 / Z r x * pi_ref x y * exp (r x y / beta).

  (* The r-hat of the paper: (5) without its last term. *)
  Definition implicit_reward (pi : X -> Y -> R) (x : X) (y : Y) : R :=
    beta * ln (pi x y / pi_ref x y).

  (* (7) *)
  Definition L_DPO (D : list (comparison X Y)) (pi : X -> Y -> R) : R :=
    - sum D (fun c => weight c * ln (sigma (
        beta * ln (pi (prompt c) (chosen c) / pi_ref (prompt c) (chosen c)) -
        beta * ln (pi (prompt c) (rejected c) / pi_ref (prompt c) (rejected c))))).

  (* Both answers of every comparison have a probability under the reference. *)
  Definition comparable (D : list (comparison X Y)) : Prop :=
    forall c, In c D ->
      0 < pi_ref (prompt c) (chosen c) /\ 0 < pi_ref (prompt c) (rejected c).

  (* At the prompt x every answer is compared with every other. *)
  Definition compared (D : list (comparison X Y)) (x : X) : Prop :=
    forall y1 y2, In y1 answers -> In y2 answers ->
      exists c, In c D /\ 0 < weight c /\ prompt c = x /\ chosen c = y1 /\ rejected c = y2.
End Definitions.

Section Tilting.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_nonzero : beta <> 0.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).

  Lemma Z_positive r x : 0 < Z r x.
  Proof.
    destruct (policy_has_an_answer _ _ (pi_ref_policy x)) as (y & I & P).
    apply (sum_positive answers _ y); auto.
    - intros z K. apply Rmult_le_pos; [now apply pi_ref_policy | left; apply exp_pos].
    - apply Rmult_lt_0_compat; [exact P | apply exp_pos].
  Qed.

  Lemma pi_r_factors r x y : pi_r r x y = pi_ref x y * (exp (r x y / beta) / Z r x).
  Proof. unfold Section4.pi_r, Rdiv. ring. Qed.

  Lemma factor_positive r x y : 0 < exp (r x y / beta) / Z r x.
  Proof. apply Rdiv_lt_0_compat; [apply exp_pos | apply Z_positive]. Qed.

  Lemma pi_r_is_policy r x : policy answers (pi_r r x).
  Proof.
    split.
    - intros y I. rewrite pi_r_factors.
      apply Rmult_le_pos; [now apply pi_ref_policy | left; apply factor_positive].
    - rewrite (sum_ext _ _ (fun y => / Z r x * (pi_ref x y * exp (r x y / beta)))).
      + rewrite sum_scal. apply Rinv_l, Rgt_not_eq, Z_positive.
      + intros y _. rewrite pi_r_factors. unfold Rdiv. ring.
  Qed.

  Lemma pi_r_positive r x y : 0 < pi_ref x y -> 0 < pi_r r x y.
  Proof.
    intro P. rewrite pi_r_factors. apply Rmult_lt_0_compat; [exact P|apply factor_positive].
  Qed.

  Lemma within_pi_r pi r x : within answers (pi x) (pi_ref x) -> within answers (pi x) (pi_r r x).
  Proof.
    intros W y I E. apply W; [exact I|]. rewrite pi_r_factors in E.
    pose proof (factor_positive r x y).
    apply Rmult_integral in E as [E|E]; [exact E | lra].
  Qed.

  Lemma pi_r_within r x : within answers (pi_r r x) (pi_ref x).
  Proof. intros y _ E. rewrite pi_r_factors, E. ring. Qed.

  Lemma reward_through_pi_r r x y :
    0 < pi_ref x y ->
    r x y = beta * ln (pi_r r x y / pi_ref x y) + beta * ln (Z r x).
  Proof.
    intro P. rewrite pi_r_factors.
    replace (pi_ref x y * (exp (r x y / beta) / Z r x) / pi_ref x y)
      with (exp (r x y / beta) / Z r x) by (field; pose proof (Z_positive r x); lra).
    rewrite ln_div, ln_exp by (try apply exp_pos; apply Z_positive). field. exact beta_nonzero.
  Qed.

  Lemma distance_to_pi_r r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    J answers pi_ref beta r pi x = beta * ln (Z r x) - beta * KL answers (pi x) (pi_r r x).
  Proof.
    intros P W. unfold J.
    assert (E : expectation answers (pi x) (r x) =
      expectation answers (pi x) (fun y =>
        beta * ln (Z r x) - beta * (ln (pi x y / pi_r r x y) - ln (pi x y / pi_ref x y)))).
    { apply expectation_ext; [exact P|]. intros y I Hy.
      pose proof (within_positive answers _ _ y (pi_ref_policy x) W I Hy) as Py.
      pose proof (pi_r_positive r x y Py).
      rewrite (reward_through_pi_r r x y Py) at 1. rewrite !ln_div by assumption. ring. }
    rewrite E, expectation_minus, expectation_of_a_constant by exact P.
    rewrite expectation_scal, expectation_minus. unfold expectation, KL. ring.
  Qed.

  Lemma policy_of_a_reward pi r f x :
    policy answers (pi x) ->
    (forall y, In y answers -> 0 < pi_ref x y) -> (forall y, In y answers -> 0 < pi x y) ->
    (forall y, In y answers -> r x y = implicit_reward pi_ref beta pi x y + f) ->
    f = beta * ln (Z r x) /\ forall y, In y answers -> pi x y = pi_r r x y.
  Proof.
    intros P R Q H.
    assert (K : forall y, In y answers ->
      pi_ref x y * exp (r x y / beta) = exp (f / beta) * pi x y).
    { intros y I. specialize (R y I). specialize (Q y I).
      rewrite (H y I). unfold implicit_reward. rewrite ln_div by assumption.
      replace ((beta * (ln (pi x y) - ln (pi_ref x y)) + f) / beta)
        with (f / beta + (ln (pi x y) - ln (pi_ref x y))) by (field; exact beta_nonzero).
      rewrite exp_plus, exp_minus, !exp_ln by assumption. field. lra. }
    assert (E : Z r x = exp (f / beta)).
    { unfold Section4.Z. rewrite (sum_ext _ _ _ K), sum_scal, (proj2 P). ring. }
    split; [rewrite E, ln_exp; field; exact beta_nonzero|].
    intros y I. unfold Section4.pi_r. rewrite Rmult_assoc, (K y I), E.
    pose proof (exp_pos (f / beta)). field. lra.
  Qed.
End Tilting.

Section Statements.
  Context {X Y : Type}.
  Variables (answers : list Y) (pi_ref : X -> Y -> R) (beta : R).
  Hypothesis pi_ref_policy : forall x, policy answers (pi_ref x).
  Hypothesis beta_positive : 0 < beta.
  Local Notation Z := (Z answers pi_ref beta).
  Local Notation pi_r := (pi_r answers pi_ref beta).
  Local Notation J := (J answers pi_ref beta).
  Local Notation objective := (objective answers pi_ref beta).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation L_DPO := (L_DPO pi_ref beta).

  Let beta_nonzero : beta <> 0 := Rgt_not_eq beta 0 beta_positive.

  (* Z is positive, and lies between the exponentials of any two bounds of the reward. *)
  Theorem partition_is_positive r x : 0 < Z r x.
  Proof. now apply Z_positive. Qed.

  Theorem partition_lies_between r x lo hi :
    (forall y, In y answers -> lo <= r x y <= hi) ->
    exp (lo / beta) <= Z r x <= exp (hi / beta).
  Proof.
    intro H. destruct (pi_ref_policy x) as [P S].
    assert (M : forall a b, a <= b -> exp (a / beta) <= exp (b / beta)).
    { intros a b [L|<-]; [left | right; reflexivity].
      apply exp_increasing, Rmult_lt_compat_r; [now apply Rinv_0_lt_compat | exact L]. }
    rewrite <- (Rmult_1_l (exp (lo / beta))), <- (Rmult_1_l (exp (hi / beta))), <- S.
    rewrite <- !sum_constant_factor.
    split; apply sum_le; intros y I; apply Rmult_le_compat_l; auto; apply M; now apply H.
  Qed.

  (* A shift of the reward leaves Z as a factor. *)
  Theorem partition_of_a_shifted_reward r f x :
    Z (fun x y => r x y + f x) x = exp (f x / beta) * Z r x.
  Proof.
    unfold Section4.Z. rewrite <- sum_scal. apply sum_ext. intros y _.
    replace ((r x y + f x) / beta) with (f x / beta + r x y / beta) by (field; lra).
    rewrite exp_plus. ring.
  Qed.

  (* (4): the objective is beta log Z less beta times the divergence from the optimum. *)
  Theorem objective_is_distance_to_the_optimum r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    J r pi x = beta * ln (Z r x) - beta * KL answers (pi x) (pi_r r x).
  Proof. now apply distance_to_pi_r. Qed.

  (* (4) maximises (3), and nothing else does. *)
  Theorem optimum_is_the_unique_maximiser r pi x :
    policy answers (pi x) -> within answers (pi x) (pi_ref x) ->
    J r pi x <= J r (pi_r r) x /\
    (J r pi x = J r (pi_r r) x <-> forall y, In y answers -> pi x y = pi_r r x y).
  Proof.
    intros P W. pose proof (pi_r_is_policy answers pi_ref beta pi_ref_policy r x) as S.
    pose proof (within_pi_r answers pi_ref beta pi_ref_policy pi r x W) as V.
    rewrite (objective_is_distance_to_the_optimum r pi x P W).
    rewrite (objective_is_distance_to_the_optimum r (pi_r r) x S (pi_r_within _ _ _ r x)).
    assert (KL answers (pi_r r x) (pi_r r x) = 0) as ->
      by (apply gibbs_equality; auto; intros y _ E; exact E).
    pose proof (gibbs_inequality _ _ _ P S V) as G.
    rewrite <- (gibbs_equality _ _ _ P S V).
    pose proof (Rmult_le_pos beta _ ltac:(lra) G). split; [lra|]. split; intro E.
    - apply (Rmult_eq_reg_l beta); lra.
    - rewrite E. ring.
  Qed.

  (* The same over prompts, as (3) has it: the optimum is unique at each prompt of the data. *)
  Theorem optimum_is_the_unique_maximiser_over_prompts prompts d r pi :
    (forall x, In x prompts -> 0 <= d x) ->
    (forall x, In x prompts -> policy answers (pi x)) ->
    (forall x, In x prompts -> within answers (pi x) (pi_ref x)) ->
    objective prompts d r pi <= objective prompts d r (pi_r r) /\
    (objective prompts d r pi = objective prompts d r (pi_r r) <->
     forall x, In x prompts -> 0 < d x -> forall y, In y answers -> pi x y = pi_r r x y).
  Proof.
    intros D P W.
    assert (M : forall x, In x prompts -> d x * J r pi x <= d x * J r (pi_r r) x).
    { intros x I. apply Rmult_le_compat_l; [auto|].
      now apply optimum_is_the_unique_maximiser; auto. }
    split; [now apply sum_le|]. split.
    - intros E x I Dx. apply (proj1 (proj2
        (optimum_is_the_unique_maximiser r pi x (P x I) (W x I)))).
      apply (Rmult_eq_reg_l (d x)); [|lra]. exact (sum_le_eq prompts _ _ M E x I).
    - intro H. apply sum_ext. intros x I.
      destruct (Rle_lt_or_eq_dec _ _ (D x I)) as [Dx|<-]; [|ring].
      f_equal. apply optimum_is_the_unique_maximiser; auto.
  Qed.

  (* (5) *)
  Theorem reward_from_its_policy r x y :
    0 < pi_ref x y ->
    r x y = beta * ln (pi_r r x y / pi_ref x y) + beta * ln (Z r x).
  Proof. now apply reward_through_pi_r. Qed.

  (* (6) *)
  Theorem preference_from_the_optimum r x y1 y2 :
    0 < pi_ref x y1 -> 0 < pi_ref x y2 ->
    bradley_terry r x y1 y2 =
    1 / (1 + exp (beta * ln (pi_r r x y2 / pi_ref x y2)
                  - beta * ln (pi_r r x y1 / pi_ref x y1))).
  Proof.
    intros P1 P2. rewrite preference_is_sigma_of_the_gap. unfold sigma. do 3 f_equal.
    rewrite (reward_from_its_policy r x y1 P1) at 1.
    rewrite (reward_from_its_policy r x y2 P2) at 1. ring.
  Qed.

  (* (7) is (2) with the implicit reward in place of the reward model. *)
  Theorem dpo_loss_is_the_reward_loss D pi : L_DPO D pi = L_R D (implicit_reward pi).
  Proof. reflexivity. Qed.

  (* At (4) the loss (7) is (2) at the reward: Z has gone from it. *)
  Theorem dpo_loss_at_the_optimum D r :
    comparable pi_ref D -> L_DPO D (pi_r r) = L_R D r.
  Proof.
    intro C. unfold Section4.L_DPO, L_R. f_equal. apply sum_ext. intros c I.
    destruct (C c I) as [W L]. do 3 f_equal.
    rewrite (reward_from_its_policy r _ _ W), (reward_from_its_policy r _ _ L). ring.
  Qed.

  (* At the reference it is log 2. *)
  Theorem dpo_loss_at_the_reference D :
    comparable pi_ref D -> L_DPO D pi_ref = sum D weight * ln 2.
  Proof.
    intro C. unfold Section4.L_DPO.
    rewrite (sum_ext _ _ (fun c => weight c * - ln 2)).
    - rewrite sum_constant_factor. ring.
    - intros c I. destruct (C c I) as [W L]. f_equal.
      rewrite !ln_div by assumption.
      replace (_ - _) with 0 by ring. rewrite sigma_0.
      replace (1 / 2) with (/ 2) by field. apply ln_Rinv. lra.
  Qed.

  Lemma labelled_comparable r pairs : comparable pi_ref pairs ->
    comparable pi_ref (labelled r pairs).
  Proof.
    intros C c I. unfold labelled in I. rewrite in_flat_map in I.
    destruct I as ([w x y1 y2] & I & H). apply C in I as [P1 P2]. simpl in *.
    destruct H as [<-|[<-|[]]]; simpl; auto.
  Qed.

  (* "DPO outline": where the labels come from (1) at r, no policy has a smaller loss (7) than
     the optimal policy (4) of r. *)
  Theorem dpo_loss_is_least_at_the_optimum r pairs pi :
    weighted pairs -> comparable pi_ref pairs ->
    L_DPO (labelled r pairs) (pi_r r) <= L_DPO (labelled r pairs) pi.
  Proof.
    intros W C. rewrite dpo_loss_at_the_optimum by now apply labelled_comparable.
    rewrite dpo_loss_is_the_reward_loss.
    now apply reward_loss_is_least_at_the_true_reward.
  Qed.

  (* ... and where all answers of a prompt are compared, only (4) has as small a loss. *)
  Theorem dpo_minimiser_is_the_optimum r pairs pi x :
    weighted pairs -> comparable pi_ref pairs -> compared answers pairs x ->
    (forall y, In y answers -> 0 < pi_ref x y) ->
    policy answers (pi x) -> (forall y, In y answers -> 0 < pi x y) ->
    L_DPO (labelled r pairs) pi = L_DPO (labelled r pairs) (pi_r r) ->
    forall y, In y answers -> pi x y = pi_r r x y.
  Proof.
    intros W C A R P Q E.
    rewrite dpo_loss_is_the_reward_loss, dpo_loss_at_the_optimum in E
      by now apply labelled_comparable.
    pose proof (proj1 (reward_loss_is_least_at_the_true_preferences _ _ _ W) E) as K.
    destruct (policy_has_an_answer _ _ P) as (y0 & I0 & _).
    apply (policy_of_a_reward answers pi_ref beta beta_nonzero pi r
             (r x y0 - implicit_reward pi x y0)); auto.
    intros y I. destruct (A y y0 I I0) as (c & Ic & Wc & <- & <- & <-).
    specialize (K c Ic Wc). apply preference_depends_on_the_gap_only in K. lra.
  Qed.
End Statements.

Lemma derivative_value f t l l' : l = l' -> derivable_pt_lim f t l -> derivable_pt_lim f t l'.
Proof. now intros ->. Qed.

(* A.4: sigma' = sigma (1 - sigma), so that the derivative of log sigma is sigma(-z). *)
Lemma log_sigma_derivative z : derivable_pt_lim (fun z => ln (sigma z)) z (sigma (- z)).
Proof.
  apply (derivable_pt_lim_ext (fun z => - ln (1 + exp (- z)))).
  - intro s. unfold sigma. pose proof (exp_pos (- s)).
    rewrite ln_div, ln_1 by lra. ring.
  - assert (E : derivable_pt_lim (fun z => 1 + exp (- z)) z (0 + exp (- z) * - (1))).
    { apply (derivable_pt_lim_plus (fun _ => 1) (fun z => exp (- z)));
        [apply derivable_pt_lim_const|].
      apply (derivable_pt_lim_comp (fun z => - z) exp);
        [apply derivable_pt_lim_opp, derivable_pt_lim_id | apply derivable_pt_lim_exp]. }
    pose proof (exp_pos (- z)).
    apply (derivative_value _ _ (- (/ (1 + exp (- z)) * (0 + exp (- z) * - (1))))).
    + rewrite sigma_opp. unfold sigma. field. lra.
    + apply (derivable_pt_lim_opp (fun z => ln (1 + exp (- z)))).
      apply (derivable_pt_lim_comp (fun z => 1 + exp (- z)) ln); [exact E|].
      apply derivable_pt_lim_ln. lra.
Qed.

Section Gradient.
  Context {X Y : Type}.
  Variables (pi_ref : X -> Y -> R) (beta : R).
  Local Notation implicit_reward := (implicit_reward pi_ref beta).
  Local Notation L_DPO := (L_DPO pi_ref beta).

  (* The gradient of (7) along one parameter theta, given that of each log-probability. *)
  Theorem dpo_gradient D (pi : R -> X -> Y -> R) (grad_log_pi : X -> Y -> R) theta :
    comparable pi_ref D -> (forall t x y, 0 < pi t x y) ->
    (forall x y, derivable_pt_lim (fun t => ln (pi t x y)) theta (grad_log_pi x y)) ->
    derivable_pt_lim (fun t => L_DPO D (pi t)) theta
      (- beta * sum D (fun c =>
         weight c *
         (sigma (implicit_reward (pi theta) (prompt c) (rejected c)
                 - implicit_reward (pi theta) (prompt c) (chosen c)) *
          (grad_log_pi (prompt c) (chosen c) - grad_log_pi (prompt c) (rejected c))))).
  Proof.
    intros C P G.
    assert (H : forall x y, 0 < pi_ref x y -> derivable_pt_lim
      (fun t => implicit_reward (pi t) x y) theta (beta * grad_log_pi x y)).
    { intros x y R. apply (derivable_pt_lim_scal (fun t => ln (pi t x y / pi_ref x y))).
      apply (derivable_pt_lim_ext (fun t => ln (pi t x y) - ln (pi_ref x y))).
      - intro t. now rewrite ln_div.
      - apply (derivative_value _ _ (grad_log_pi x y - 0)); [ring|].
        apply (derivable_pt_lim_minus (fun t => ln (pi t x y)) (fun _ => _)); [apply G|].
        apply derivable_pt_lim_const. }
    rewrite <- sum_scal.
    apply (derivative_value _ _ (- sum D (fun c => weight c *
      (sigma (- (implicit_reward (pi theta) (prompt c) (chosen c)
                 - implicit_reward (pi theta) (prompt c) (rejected c))) *
       (beta * grad_log_pi (prompt c) (chosen c)
        - beta * grad_log_pi (prompt c) (rejected c)))))).
    - rewrite <- (Rmult_1_l (sum _ _)), Ropp_mult_distr_l, <- sum_scal. apply sum_ext.
      intros c _. rewrite Ropp_minus_distr. ring.
    - apply (derivable_pt_lim_opp (fun t => sum D _)).
      apply (sum_derivative D (fun t c => _)). intros c I. destruct (C c I) as [W L].
      apply (derivable_pt_lim_scal (fun t => ln (sigma
        (implicit_reward (pi t) (prompt c) (chosen c)
         - implicit_reward (pi t) (prompt c) (rejected c))))).
      apply (derivable_pt_lim_comp (fun t =>
        implicit_reward (pi t) (prompt c) (chosen c)
        - implicit_reward (pi t) (prompt c) (rejected c)) (fun z => ln (sigma z)));
        [|apply log_sigma_derivative].
      apply (derivable_pt_lim_minus
        (fun t => implicit_reward (pi t) (prompt c) (chosen c))
        (fun t => implicit_reward (pi t) (prompt c) (rejected c))); now apply H.
  Qed.
End Gradient.

(* The weight of a pair lies between 0 and 1, and is above one half where the implicit rewards
   rank the pair wrongly. *)
Theorem gradient_weight_is_large_where_the_pair_is_wrong h_w h_l :
  0 < sigma (h_l - h_w) < 1 /\ (1 / 2 < sigma (h_l - h_w) <-> h_w < h_l).
Proof.
  split; [split; [apply sigma_positive | apply sigma_below_one]|]. rewrite <- sigma_0. split.
  - intro H. destruct (Rtotal_order (h_l - h_w) 0) as [L|[E|G]]; [|rewrite E in H|]; try lra.
    apply sigma_increasing in L. lra.
  - intro H. apply sigma_increasing. lra.
Qed.
